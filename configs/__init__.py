"""One config file per task; every file has `PRESETS` and `get_config(preset)`."""
