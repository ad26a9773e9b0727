"""The stage cache: what stages gave, kept on disk for later packs and later sweeps.

``files`` reads and writes checked entries and keeps to the size limit, ``shelf`` is what one pack
takes from it and puts into it.
"""
