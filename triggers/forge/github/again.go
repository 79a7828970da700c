package github

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"

	gh "github.com/google/go-github/v60/github"
)

// again makes a call until it succeeds, fails for good, or ctx ends.
func (c *Client) again(ctx context.Context, doing string, call func() (*gh.Response, error)) error {
	for try := 1; ; try++ {
		response, err := call()
		if err == nil {
			return nil
		}
		wait, more := retryIn(err, response, try, c.now())
		if !more {
			return fmt.Errorf("%s: %w", doing, err)
		}
		if sleepErr := c.sleep(ctx, wait); sleepErr != nil {
			return fmt.Errorf("%s: %w (last try: %w)", doing, sleepErr, err)
		}
	}
}

// Permanent tells whether GitHub said that a call will never succeed as it is:
// something in it does not exist, or makes no sense. Lost rights may come back.
func Permanent(err error) bool {
	switch statusOf(err) {
	case http.StatusNotFound, http.StatusGone, http.StatusUnprocessableEntity, http.StatusConflict, http.StatusBadRequest:
		return true
	}
	return false
}

// statusOf is the HTTP status that GitHub answered with; 0 when it did not.
func statusOf(err error) int {
	var answer *gh.ErrorResponse
	if errors.As(err, &answer) && answer.Response != nil {
		return answer.Response.StatusCode
	}
	return 0
}

// split takes a full name apart, if it and the commits are what they say.
func split(repository string, commits ...string) (owner, name string, _ error) {
	owner, name, ok := strings.Cut(repository, "/")
	if !ok || !validFullName(repository) {
		return "", "", fmt.Errorf("%q is not a repository", repository)
	}
	for _, commit := range commits {
		if !validHash(commit) {
			return "", "", fmt.Errorf("%q is not a commit of %s", commit, repository)
		}
	}
	return owner, name, nil
}
