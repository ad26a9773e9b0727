"""The stage cache: what stages gave, kept on disk for later packs and later sweeps.

``entries`` reads and writes checked files and keeps to the size limit, ``pack_cache`` is what one
pack takes from it and puts into it.
"""
