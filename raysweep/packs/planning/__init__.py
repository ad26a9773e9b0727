"""Planning: grouping configurations into packs, and estimating their time and memory."""
