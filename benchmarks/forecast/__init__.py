"""How good the forecast is, beside simple methods and the usual libraries, in one run."""
