"""What will happen: growth forecasts with probabilities, time to threshold, backtests, scores of past forecasts."""

from runbooks_lib.capacity.events import Event
from runbooks_lib.capacity.growth import CannotTellError, Forecast, Tier, forecast
from runbooks_lib.capacity.partition import FLOORS, Outlook, outlook
from runbooks_lib.capacity.plan import Plan, Purchase, needed_bytes, plan_for, purchases
from runbooks_lib.capacity.rates import Rates
from runbooks_lib.capacity.rolling import Backtest, Curve, backtest
from runbooks_lib.capacity.scores import Running, Said, score_due

__all__ = [
    "FLOORS",
    "Backtest",
    "CannotTellError",
    "Curve",
    "Event",
    "Forecast",
    "Outlook",
    "Plan",
    "Purchase",
    "Rates",
    "Running",
    "Said",
    "Tier",
    "backtest",
    "forecast",
    "needed_bytes",
    "outlook",
    "plan_for",
    "purchases",
    "score_due",
]
