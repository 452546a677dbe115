"""The cache on disk: what a prefill kept of a clip, so that a later question skips decoding, vision and prefill.

content.py   the digest of a clip's bytes
key.py       everything that decides what a prefill keeps: same key, same bits
header.py    what a file says of itself
checked.py   digests of tensors, which are sent to a GPU while they are checked
file.py      one prefill as a safetensors file, written whole or not at all, read only if every byte is as written
folder.py    the files of a user: least recently used ones go when they grow beyond a limit
probed.py    what the probe of a clip found, from its cache
shelf.py     all of it for one run, where a failure is a note and never an error
"""
