"""Images that may have any number of classes, or none: each class is a question of its own.

    ranking      average precision
    reliability  do probabilities mean what they say?
    calibrate    a temperature and a bias for each class, on val
    thresholds   from which probability on an image has a class, on val
    evaluate     the numbers of a test split, with intervals
    paired       is the mean difference of a score of each image more than chance?
    gate         may the candidate replace the stable version?
    task         these stages in the order of a run

What is trained, and how, is the same as for one class an image but for the loss (`targets`).
"""
