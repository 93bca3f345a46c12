"""A page that shows what the attention of one or two models does with an image.

:mod:`.build` gathers everything and writes the page, :mod:`.rows` turns attention into
rows of bytes, :mod:`.keys` what a manifold key makes, :mod:`.objects` what a detector
finds; :mod:`.packing` keeps the file small. The page itself is in ``assets/``: plain
HTML, CSS and JavaScript, put into one file.
"""
