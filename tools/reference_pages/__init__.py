"""The reference pages of the manual, each made from the definitions that it describes."""
