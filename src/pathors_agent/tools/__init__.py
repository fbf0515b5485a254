"""Define tools, read their signatures, bind calls to them and write their results. Pure."""
