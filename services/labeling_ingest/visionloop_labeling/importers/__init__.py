"""Importers: from a file or a prefix as other tools write it to numbered rows.

    entries      what all importers give: steps, entries, refusals
    parameters   what the sender may say about a source
    names        file names in archives and tables
    archive      ZIP, TAR, TAR.GZ (and `tar`, the format)
    folder       an archive with a folder per class
    images       the images of one form (and `album`, how they lie in one file)
    csv          a table with a row per image
    coco, yolo, label_studio       annotations as those tools write them
    pictures     from a name in a table to an image: archive, URL, image that is there
    frames       from raw, relative and turned coordinates to oriented pixels
    urls         a list of URLs
    s3_prefix    a prefix of an S3 bucket, with a ledger

`import_jobs` and `import_worker` run them. To add a format: a module with an importer here, its
parameters, and a line in `opening`.
"""

from visionloop_labeling.importers.entries import Entry, Importer, SourceError, Step

__all__ = ["Entry", "Importer", "SourceError", "Step"]
