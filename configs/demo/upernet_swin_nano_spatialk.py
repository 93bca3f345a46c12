# Label every pixel with its digit, or none: UperNet on the same pretrained backbone.
_base_ = './_base_/upernet.py'
