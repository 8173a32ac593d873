import keras
def train(a,b,m): raise NotImplementedError
