"""Starting and joining Ray clusters: nodes, tokens, shares of a GPU."""
