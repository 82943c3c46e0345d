"""Configs: --config=reverie_rssm/configs/NAME.py where this package is installed beside Reverie."""
