"""eau2: a key-value store whose values are bytes or read-only dataframes."""
