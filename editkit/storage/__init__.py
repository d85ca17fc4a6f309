"""Files: the cache, digests, packaged resources, strict JSON and YAML, safe names."""
