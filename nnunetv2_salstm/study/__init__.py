"""Whole studies: the workflow file for Snakemake, the study file that it reads, its jobs, and how they stand."""
