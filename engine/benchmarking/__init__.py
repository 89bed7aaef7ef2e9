"""``benchmark``: how fast a configuration trains on this machine."""
