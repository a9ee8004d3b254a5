"""The picture and the page of a finished sweep."""
