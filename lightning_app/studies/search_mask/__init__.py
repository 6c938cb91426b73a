"""The study behind `search-mask`: one mask for a whole aligned set (Algorithm 1), with all that is known of it."""

from lightning_app.studies.search_mask.study import SearchedMask as SearchedMask
from lightning_app.studies.search_mask.study import search_mask as search_mask
