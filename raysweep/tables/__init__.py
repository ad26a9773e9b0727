"""Parquet tables: schemas, the atomic writer, readers that work while a sweep runs, ranking."""
