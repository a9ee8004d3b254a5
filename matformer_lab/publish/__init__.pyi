"""Slices on the Hub: what is sent, how it is described there, and the upload."""

from .push import Pushed as Pushed
from .push import push as push
