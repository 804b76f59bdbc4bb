"""The schemas of request bodies: one file per API, and files of fields that several APIs share."""
