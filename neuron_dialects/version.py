"""The toolkit's version, written once: the package metadata, `--version` and a NEFF's build string all read it here."""

VERSION = "0.1.0"
