"""What nodes say of themselves: figures, how they get from node to node, and Prometheus's text.

Nothing here knows of stores or sockets: `store/`, `cluster/` and `remote/` bring what is counted, and carry it.
"""
