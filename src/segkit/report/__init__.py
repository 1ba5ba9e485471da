"""What people read: signatures, tables, pictures, curves and the names of files."""
