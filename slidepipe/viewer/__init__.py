"""`slidepipe view`: a small web server over a RESULTS folder, to look at specimens and correct their labels in a browser.

- `server.serve` starts the server; `app.build_app` collects its routes; `access` decides which requests are answered.
- `pages` holds the pages, `images` the pictures and `api` the data that the scripts in `static/` request.
- `open_results.OpenResults` is the RESULTS folder that is viewed: its tables (`results_index.ResultsIndex`) and its
  labels (`label_book.LabelBook`).
"""
