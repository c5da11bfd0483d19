# The public names, read at run time too.
from .cases import Planted as Planted, TrojanCase as TrojanCase
from .planted import read_planted as read_planted
from .planting import plant as plant
