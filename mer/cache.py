"""Public names of product files; mer.storage.cache has the code."""

from mer.storage.cache import CacheWriter as CacheWriter
from mer.storage.cache import ClipCache as ClipCache
