"""Programs that use the library as a model does; not part of its API."""
