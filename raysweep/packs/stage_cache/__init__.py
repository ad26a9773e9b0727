"""The stage cache: results of stages, kept on disk for later packs and sweeps.

``entries`` reads and writes files with checksums and enforces the size limit; ``pack_cache`` is one
pack's access to it.
"""
