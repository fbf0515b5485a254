"""The commands of the command line; `pathors_agent.__main__` starts them."""
