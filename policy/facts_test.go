package policy_test

import (
	"encoding/json"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/routesteward/routesteward/policy"
)

func TestAnswersAreWords(t *testing.T) {
	answers := []policy.Answer{policy.Yes, policy.No, policy.Unknown}
	text, err := json.Marshal(answers)
	require.NoError(t, err)
	require.Equal(t, `["yes","no","unknown"]`, string(text))
	var read []policy.Answer
	require.NoError(t, json.Unmarshal(text, &read))
	require.Equal(t, answers, read)
	require.EqualError(t, json.Unmarshal([]byte(`["maybe"]`), &read), `"maybe" is none of yes, no and unknown`)
}
