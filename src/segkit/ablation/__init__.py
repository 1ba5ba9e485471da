"""The papers' tables: rows, trainings, scores and the pages made of them."""
