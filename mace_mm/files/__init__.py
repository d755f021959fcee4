"""Files and folders that survive a kill: locks and atomic writes."""
