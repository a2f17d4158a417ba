"""Tools of the charts: values.schema.json and the tables of values, both made from values.yaml."""
