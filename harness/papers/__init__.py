"""The papers, one folder each: published numbers, and for the paper under test its claims, deviations and figures.

A folder holds CSV files of published numbers and `protocols.csv`, the conditions under which they were obtained. A new
paper is a new folder: `published` reads every folder that is here.
"""
