"""The parent: config and tensor layout of a local folder or a Hub repository, without weights."""

from .fetch import fetched as fetched
from .opening import open_parent as open_parent
from .parent import Parent as Parent
