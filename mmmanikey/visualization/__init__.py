"""Pictures of what a backbone attends to and what its charts respond to."""

from .attention import attention_layers, attention_map, record_attention
from .charts import ChartResponse, draw_charts, record_charts

__all__ = [
    'ChartResponse',
    'attention_layers',
    'attention_map',
    'draw_charts',
    'record_attention',
    'record_charts',
]
