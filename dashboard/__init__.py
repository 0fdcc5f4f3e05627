"""The web face of liqheat: one page, an embed, an API and pictures, all drawn from the cache."""
