"""Alerts: rules held against what the cache shows, and their delivery by Apprise.

`config` reads what is wanted, `rules` tells what of it holds (pure), `watch` looks, `targets` and `delivery` send.
Nothing here is loaded by a worker that has no alerts configured, and Apprise only with the first target.
"""
