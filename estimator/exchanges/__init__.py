"""Sources of market data: simulated, recorded, and (one file each) live venues."""
