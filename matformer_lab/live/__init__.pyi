"""Live slices: models whose weights are views into the loaded parent."""

from .devices import resolve_device as resolve_device
from .elastic import ElasticParent as ElasticParent
