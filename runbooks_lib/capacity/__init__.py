"""What will happen: growth forecasts with probabilities, time to threshold, backtests, scores of past forecasts."""

from runbooks_lib.capacity.growth import CannotTellError, Forecast, Tier, forecast

__all__ = ["CannotTellError", "Forecast", "Tier", "forecast"]
