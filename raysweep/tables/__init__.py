"""Parquet tables: schemas, an atomic writer, readers that work while a sweep runs, ranking."""
