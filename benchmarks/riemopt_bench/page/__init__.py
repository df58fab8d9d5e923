"""What people read: the page of the training benchmark, and the styles and words of both."""
