"""What will happen: growth forecasts with probabilities, time to threshold, backtests, scores of past forecasts."""

from runbooks_lib.capacity.events import Event
from runbooks_lib.capacity.growth import CannotTellError, Forecast, Tier, forecast
from runbooks_lib.capacity.partition import Outlook, outlook
from runbooks_lib.capacity.rates import Rates

__all__ = ["CannotTellError", "Event", "Forecast", "Outlook", "Rates", "Tier", "forecast", "outlook"]
