"""The study: experiments from nothing to figures and tables, over seeds, resumable."""
