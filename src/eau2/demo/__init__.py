"""A first look: `python -m eau2.demo [FOLDER]` makes a GitHub-like data set, loads it, asks it questions."""
