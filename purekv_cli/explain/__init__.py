"""`purekv explain`: which parts of a clip the pruned cache kept, as pictures, a page and numbers.

kept.py reads the positions off the engine's cache, timeline.py turns them into shares per second; shade.py, sheet.py,
chart.py, blocks.py, page.py and overlay.py show them, folder.py writes them whole or not at all, run.py is the order.
"""
