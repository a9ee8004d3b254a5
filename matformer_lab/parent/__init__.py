"""The parent: config and tensor layout of a local folder or a Hub repository, without weights."""
