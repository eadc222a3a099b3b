"""The client of a served store: `eau2.open("eau2://host:port")`, over Arrow Flight."""
