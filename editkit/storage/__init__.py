"""Files and the machine: cache, digests, files of packages, JSON and YAML, memory, disk space."""
