"""What the library costs, beside a floor and beside its peers: `make bench`."""
